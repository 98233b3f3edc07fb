"""Exports and verifies every network of the list: `python -m exporters.networks [NAME …]`.

It rewrites docs/networks.*. Weights are random, drawn once from a fixed seed, so nothing is
downloaded; parameters that start out constant are drawn too; BN statistics are those of random
images, then moved, so that no layer's loss vanishes. Each network becomes two bundles, with golden
probes of one and of three images, which `scdd verify` judges; then they are deleted. Rows that
docs/networks.json holds already are kept (the command resumes) unless their networks are named.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from . import bundle, golden, graph, models
from .data import DatasetInfo
from .errors import CheckError, listed

COMMAND = "python -m exporters.networks"
CLASSES = 1000
PROBES = (1, 3)


@dataclass(frozen=True)
class Network:
    """A model of torchvision's or timm's own registry, and the side of its square images."""

    source: str
    model: str
    size: int
    folded: bool = False
    """Whether BN is folded into the convolutions, as in graphs that were not exported for us."""

    @property
    def name(self) -> str:
        return f"{self.source}-{self.model}" + ("-folded" if self.folded else "")

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        if self.source == "torchvision":
            if self.model in models.INCEPTIONS:
                return models.build(f"torchvision/{self.model}", {"transform_input": True})
            return torchvision.models.get_model(self.model, weights=None)
        return timm.create_model(self.model, pretrained=False, num_classes=CLASSES)


TORCHVISION = """
resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 resnext50_32x4d regnet_y_400mf regnet_x_3_2gf densenet121
mobilenet_v2 mobilenet_v3_large efficientnet_b0 efficientnet_v2_s mnasnet1_0 shufflenet_v2_x1_0 squeezenet1_1 googlenet
inception_v3 vgg11_bn vgg16 alexnet convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t
"""
TIMM = """
resnetv2_50 resnet50d seresnet50 res2net50_26w_4s resnest50d ecaresnet50d efficientnet_lite0 tf_efficientnet_b0
mobilenetv3_large_100 ghostnet_100 hrnet_w18 dla34 regnety_008 repvgg_a0 convnextv2_atto vit_tiny_patch16_224
deit_tiny_patch16_224 beit_base_patch16_224 mixer_s32_224 levit_128 poolformer_s12 coat_lite_tiny edgenext_xx_small
mobilevit_xxs
"""
# These show how the project takes networks that it was not built around.
UNSEEN = """
xcit_nano_12_p16_224 volo_d1_224 pvt_v2_b0 efficientformer_l1 nfnet_l0 efficientvit_b0 tiny_vit_5m_224 davit_tiny
"""
# Convolutions whose weights are standardised, and attention in five dimensions.
STANDARDISED = """
nfnet_f0 resnetv2_50x1_bit vit_tiny_r_s16_p8_224 nest_tiny twins_svt_small twins_pcpvt_small hiera_tiny_224
"""
# One or two of each family that stands in no list above, most of them with BN.
FURTHER = """
dm_nfnet_f0 eca_nfnet_l0 nf_resnet50 skresnet18 ese_vovnet19b_dw mobileone_s0 tinynet_e mixnet_s rexnet_100 lcnet_050
hardcorenas_a starnet_s1 repghostnet_050 mobilenetv4_conv_small fastvit_t8 inception_next_atto shvit_s1 swiftformer_xs
halonet26t botnet26t_256 lambda_resnet26t gcresnet33ts regnetz_b16 cspresnet50 selecsls42 hrnet_w18_small
coatnet_nano_rw_224 efficientvit_m0 dpn68 repvit_m0_9 mambaout_femto hgnetv2_b0 sequencer2d_s crossvit_tiny_240
convit_tiny gcvit_xxtiny tnt_s_legacy_patch16_224 csatv2 mvitv2_tiny focalnet_tiny_srf efficientvim_m1 gmlp_ti16_224
resmlp_12_224 cait_xxs24_224 bat_resnext26ts iformer_t lowformer_b0 tresnet_m fasternet_t0 visformer_tiny
efficientformerv2_s0
"""
# Networks that take one size only are verified at that, the others at a small one.
SMALL, SMALLEST = 128, 64
FIXED_SIZES = {
    "vit_b_16": 224,
    "swin_t": 224,
    "swin_v2_t": 256,
    "maxvit_t": 224,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_patch16_224": 224,
    "beit_base_patch16_224": 224,
    "mixer_s32_224": 224,
    "levit_128": 224,
    "coat_lite_tiny": 224,
    "xcit_nano_12_p16_224": 224,
    "volo_d1_224": 224,
    "efficientformer_l1": 224,
    "tiny_vit_5m_224": 224,
    "davit_tiny": 224,
    "vit_tiny_r_s16_p8_224": 224,
    "nest_tiny": 224,
    "twins_svt_small": 224,
    "twins_pcpvt_small": 224,
    "hiera_tiny_224": 224,
    "coatnet_nano_rw_224": 224,
    "halonet26t": 256,
    "botnet26t_256": 256,
    "visformer_tiny": 224,
    "crossvit_tiny_240": 240,
    "sequencer2d_s": 224,
    "cait_xxs24_224": 224,
    "resmlp_12_224": 224,
    "gmlp_ti16_224": 224,
    "mvitv2_tiny": 224,
    "tnt_s_legacy_patch16_224": 224,
    "gcvit_xxtiny": 224,
    "convit_tiny": 224,
    "bat_resnext26ts": 256,
    "efficientformerv2_s0": 224,
}
NETWORKS = (
    *(
        Network(source, model, FIXED_SIZES.get(model, size))
        for source, models, size in (
            ("torchvision", TORCHVISION, SMALL),
            ("timm", TIMM, SMALL),
            ("timm", UNSEEN, SMALL),
            ("timm", STANDARDISED, SMALL),
            ("timm", FURTHER, SMALLEST),
        )
        for model in models.split()
    ),
    Network("torchvision", "resnet18", SMALL, folded=True),
    Network("torchvision", "resnet50", SMALL, folded=True),
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", help="networks to verify again (default: those without a row)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of networks.json and networks.md"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/networks"), help="folder for the bundles"
    )
    parser.add_argument(
        "--scdd", type=Path, default=Path("target/release/scdd"), help="the program that verifies"
    )
    parser.add_argument("--keep", action="store_true", help="keep the bundles")
    parser.add_argument("--export-only", action="store_true", help="write the bundles and no row")
    chosen = parser.parse_args(arguments)
    rows = _read_rows(chosen.out / "networks.json")
    unknown = set(chosen.names) - {network.name for network in NETWORKS}
    if unknown:
        near = [
            name
            for each in sorted(unknown)
            for name in difflib.get_close_matches(each, [network.name for network in NETWORKS])
        ]
        parser.error(f"unknown networks: {', '.join(sorted(unknown))}; near them: {listed(near)}")
    for network in NETWORKS:
        if network.name not in chosen.names if chosen.names else network.name in rows:
            continue
        folder = chosen.work / network.name
        try:
            kind = _export(network, folder)
            row = {} if chosen.export_only else _verify(network, kind, folder, chosen.scdd)
        except Exception as error:  # the row says why a network can't be had; the others go on
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            row = _row(network, note=note.replace(f"{folder}/", ""))
        if row:
            rows[network.name] = row
            _write_rows(chosen.out, rows)
        if not chosen.keep and not chosen.export_only:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{network.name}: {row or 'exported'}", flush=True)
    return 0 if all(row["verified"] for row in rows.values()) else 1


def _export(network: Network, folder: Path) -> str:
    """Writes the bundles `folder/<images>`, one per golden probe, unless they are there; their kind
    of statistics."""
    kind_file = folder / "kind"
    if kind_file.is_file():
        return kind_file.read_text()
    shape = (3, network.size, network.size)
    dataset = DatasetInfo(
        "random",
        3,
        network.size,
        tuple(map(str, range(CLASSES))),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    model = graph.prepare(network.build())
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    _draw_constants(model)
    draw_statistics(model, images)
    serialised, layers = graph.to_onnx(model, shape)
    if network.folded:
        tensors = bundle.bn_statistics(model, layers)
        serialised, layers = graph.fold(serialised, layers)
        model = graph.folded_module(model, serialised, layers)
        statistics = bundle.Statistics("folded", layers, tensors)
    elif layers:
        statistics = bundle.Statistics("batch_norm", layers, bundle.bn_statistics(model, layers))
    else:
        layers = graph.activation_layers(serialised, model)
        statistics = bundle.Statistics(
            "calibrated", layers, bundle.calibrated_statistics(model, layers, images)
        )
    exact = graph.standardised_module(model, serialised)
    for count in PROBES:
        writer = bundle.Writer(
            str(count), "teacher", dataset, network.model, {}, folder, replace=True
        )
        inputs, targets = golden.golden_input(None, None, shape, CLASSES, count)
        probe = golden.golden(
            exact, layers, statistics.tensors, inputs, targets, folded=network.folded
        )
        writer.publish(serialised, statistics, probe, {"source": {"package": network.source}})
    kind_file.write_text(statistics.kind)
    return statistics.kind


@torch.no_grad()
def _draw_constants(model: nn.Module) -> None:
    """Draws the parameters that a fresh network holds constant: scales, shifts, branches that start
    as nothing."""
    for name, parameter in model.named_parameters():
        if parameter.numel() < 2 or parameter.min() < parameter.max():
            continue
        if name.endswith("weight") and parameter.dim() == 1:
            parameter.uniform_(0.7, 1.3)
        elif parameter.max() == 0:
            parameter.normal_(0.0, 0.05)
        else:  # the scale of a residual branch
            parameter.uniform_(0.05, 0.15)


@torch.no_grad()
def draw_statistics(model: nn.Module, images: torch.Tensor) -> None:
    """BN statistics are those of `images`, then moved by a tenth or so."""
    norms = [
        module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    ]
    model.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        model(images)
    model.eval()
    for norm in norms:
        if norm.running_var is None or norm.running_mean is None:
            continue  # without statistics of its own, which `export` refuses
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.1 * deviation * torch.randn_like(deviation)
        norm.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.3)
        norm.momentum = 0.1


def _verify(network: Network, kind: str, folder: Path, scdd: Path) -> dict[str, Any]:
    bundles = [str(folder / str(count)) for count in PROBES]
    done = subprocess.run(
        [str(scdd), "verify", "--json", *bundles], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise CheckError(done.stderr.strip() or f"scdd verify ended with {done.returncode}")
    verdicts = json.loads(done.stdout)
    checks = [check for verdict in verdicts for check in verdict["checks"]]

    def worst(*words: str) -> float | None:
        """The largest error, or none where one of them is NaN, which JSON has as null."""
        errors = [
            check["error"] for check in checks if any(word in check["name"] for word in words)
        ]
        return None if None in errors else float(f"{max(errors):.2e}")

    verified = all(check["passed"] for check in checks)
    notes = [verdict["divergence"] for verdict in verdicts if verdict["divergence"]]
    return _row(
        network,
        kind,
        logits_error=worst("logits"),
        taps_error=worst("statistics"),
        gradient_error=worst("input gradient"),
        verified=verified,
        note=notes[0] if notes else "",
    )


def _row(network: Network, statistics: str = "", **facts: Any) -> dict[str, Any]:
    errors = dict.fromkeys(("logits_error", "taps_error", "gradient_error"))
    about = {
        "name": network.name,
        "source": network.source,
        "model": network.model,
        "size": network.size,
    }
    return about | {"statistics": statistics, **errors, "verified": False} | facts


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["networks"]}


def _write_rows(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    versions = {package.__name__: package.__version__ for package in (torch, torchvision, timm)}
    ordered = [rows[network.name] for network in NETWORKS if network.name in rows]
    document = {"command": COMMAND, "versions": versions, "networks": ordered}
    out.mkdir(parents=True, exist_ok=True)
    (out / "networks.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    verified = sum(row["verified"] for row in ordered)
    lines = [
        "# Networks",
        "",
        f"{verified} of {len(ordered)} networks verified, forward and backward. Random weights; opset {graph.OPSET}; "
        "tch against PyTorch (golden probes of one and",
        "of three images) and against ONNX Runtime (one and three images). Errors are the largest of all checks of "
        "`scdd verify`: logits and layer",
        f"statistics relative to the largest value, gradients in the L2 norm. Written by `{COMMAND}`.",
        "",
        f"No list asked for {', '.join((UNSEEN + FURTHER).split())}: they stand for any other network.",
        "",
        "| network | source | size | statistics | logits | layer statistics | gradient | verified |",
        "| --- | --- | --: | --- | --: | --: | --: | --- |",
    ]
    for row in ordered:
        errors = [row[key] for key in ("logits_error", "taps_error", "gradient_error")]
        shown = " | ".join("" if error is None else f"{error:.1e}" for error in errors)
        verdict = "yes" if row["verified"] else f"no: {row.get('note', '')}"
        lines.append(
            f"| {row['model']} | {row['source']} | {row['size']} | {row['statistics']} | {shown} | {verdict} |"
        )
    (out / "networks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
