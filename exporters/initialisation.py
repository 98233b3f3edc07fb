"""How a student's parameters are drawn: the `init` of its bundle, read off one draw of its network.

Every library draws in ways of its own, which modules do not tell, but drawn values do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .errors import InputError

SIGMAS = 6
"""How many standard deviations the mean square of a draw may be from its distribution's."""

ODDS = math.log(1e6)
"""How much likelier a rule must be than one that stands before it: ten biases tell little."""

Recipe = dict[str, Any]


def initialisation(model: nn.Module) -> dict[str, Recipe]:
    """The distribution that each trainable parameter of a fresh `model` is drawn from, as
    `named_parameters` has them.

    Parameters of one name in modules of one type, such as all weights of convolutions, are drawn by
    one rule, the likeliest of those that fit each of them. What is the same everywhere in a
    parameter is a constant. An InputError names a parameter that no rule fits.
    """
    groups: dict[tuple[type[nn.Module], str], list[tuple[str, nn.Module, Tensor]]] = {}
    recipes: dict[str, Recipe] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            key, drawn = f"{prefix}.{name}" if prefix else name, parameter.detach().double()
            # A single value tells nothing, but where it is one that nobody draws.
            if drawn.min() == drawn.max() and (drawn.numel() > 1 or drawn.item() in (0.0, 1.0)):
                recipes[key] = {"type": "constant", "value": drawn.flatten()[0].item()}
            else:
                groups.setdefault((type(module), name), []).append((key, module, drawn))
    for members in groups.values():
        # Where one of them is drawn otherwise, as SqueezeNet's classifier is, each has a rule of
        # its own.
        recipes |= _likeliest(members) or {
            k: v for member in members for k, v in _likeliest([member]).items()
        }
    named = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if unknown := [name for name in named if name not in recipes]:
        raise InputError(
            f"no initialisation is known for {len(unknown)} parameters, such as {unknown[0]}: they are neither "
            "constant nor drawn as PyTorch, torchvision and timm usually draw; choose another student"
        )
    return {name: recipes[name] for name in named}


def _likeliest(members: list[tuple[str, nn.Module, Tensor]]) -> dict[str, Recipe]:
    """The recipes that the likeliest rule gives `members`; empty where none fits all of them."""
    tried = [{key: rule(module, drawn) for key, module, drawn in members} for rule in RULES]
    found = [
        sum(_log_likelihood(recipes[key], drawn) for key, _, drawn in members) for recipes in tried
    ]
    best = max(found)
    return (
        {}
        if best == -math.inf
        else tried[next(i for i, each in enumerate(found) if each >= best - ODDS)]
    )


Rule = Callable[[nn.Module, Tensor], Recipe]


def _fans(module: nn.Module, drawn: Tensor) -> tuple[int, int]:
    """How many values enter an output of a convolution or linear layer, and how many outputs a
    value enters.

    The second as `nn.init` counts it, which knows of no groups. A bias has its weight's; others
    without have 0 and 0.
    """
    weight = drawn if drawn.dim() > 1 else getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return 0, 0
    return weight[0].numel(), weight.numel() // weight.shape[1]


def _uniform(bound: Callable[[int, int], float], *, biases: bool = False) -> Rule:
    def rule(module: nn.Module, drawn: Tensor) -> Recipe:
        fan_in, fan_out = _fans(module, drawn)
        if not fan_in or (drawn.dim() < 2 and not biases):
            return {}
        return {"type": "uniform", "bound": bound(fan_in, fan_out)}

    return rule


def _normal(std: Callable[[int, int], float], *, grouped: bool = False) -> Rule:
    def rule(module: nn.Module, drawn: Tensor) -> Recipe:
        fan_in, fan_out = _fans(module, drawn)
        if drawn.dim() < 2:
            return {}
        groups = module.groups if grouped and isinstance(module, nn.Conv2d) else 1
        return {"type": "normal", "std": std(fan_in, fan_out // groups)}

    return rule


def _of_any(std: float) -> Rule:
    return lambda _module, _drawn: {"type": "normal", "std": std}


# Each gives a module's parameter its distribution, or nothing where it has none for it. The more
# usual stand first.
RULES: tuple[Rule, ...] = (
    # PyTorch's own.
    _uniform(lambda fan_in, _: 1 / math.sqrt(fan_in), biases=True),
    # kaiming_normal_(mode="fan_out"): ResNets.
    _normal(lambda _, fan_out: math.sqrt(2 / fan_out)),
    # timm's EfficientNets, ByobNets.
    _normal(lambda _, fan_out: math.sqrt(2 / fan_out), grouped=True),
    # kaiming_normal_: DenseNets.
    _normal(lambda fan_in, _: math.sqrt(2 / fan_in)),
    # kaiming_normal_(nonlinearity="linear"): NFNets.
    _normal(lambda fan_in, _: math.sqrt(1 / fan_in)),
    # kaiming_uniform_: SqueezeNet.
    _uniform(lambda fan_in, _: math.sqrt(6 / fan_in)),
    # Classifiers of EfficientNets.
    _uniform(lambda _, fan_out: 1 / math.sqrt(fan_out)),
    # MNASNet's classifier.
    _uniform(lambda _, fan_out: math.sqrt(3 / fan_out)),
    # xavier_uniform_: ViTs of torchvision.
    _uniform(lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out))),
    # Classifiers of MobileNets, VGGs.
    _of_any(0.01),
    # Biases of torchvision's ViTs.
    _of_any(1e-6),
    # trunc_normal_, whose ends are a hundred deviations away: ViTs, ConvNeXts.
    _of_any(0.02),
)


def _log_likelihood(recipe: Recipe, drawn: Tensor) -> float:
    """That of `drawn` by `recipe`, or minus infinity where they do not fit."""
    if not recipe:
        return -math.inf
    count, square = drawn.numel(), drawn.square().mean().item()
    if recipe["type"] == "uniform":
        bound = recipe["bound"]
        expected = bound**2 / 3
        likelihood = -count * math.log(2 * bound)
        possible = bool(drawn.abs().max() <= bound * (1 + 1e-6))
    else:
        expected = recipe["std"] ** 2
        likelihood = -count / 2 * (math.log(2 * math.pi * expected) + square / expected)
        possible = True
    fits = abs(square / expected - 1) <= SIGMAS * math.sqrt(2 / count)
    return likelihood if possible and fits else -math.inf
