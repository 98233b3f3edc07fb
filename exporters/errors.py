"""The two ways in which a command can end badly."""


class InputError(Exception):
    """The user's input (a config, a checkpoint, a data file) cannot be used. Exit code 2."""


class CheckError(Exception):
    """A result failed one of our own checks (ONNX Runtime disagrees, a BN node is missing). Exit
    code 1."""
