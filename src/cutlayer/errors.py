"""Every error a user can cause: one sentence that names the field, the value and the remedy."""


class CutlayerError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class JobError(CutlayerError):
    """A job that cannot be run as written."""


class ModelError(CutlayerError):
    """A model that cannot be found, read or cut."""


class DataError(CutlayerError):
    """Data that cannot be found, read or divided."""


class WorldError(CutlayerError):
    """A fleet, a trace or a place that the simulated world cannot use."""


class FrameError(CutlayerError):
    """Bytes that are not a frame, or not the frame that was due."""


class RunError(CutlayerError):
    """A run that cannot go on: a folder that cannot be written, a loss that is not a number."""


class AllocationError(CutlayerError):
    """A round that no bandwidth, power, tokens, bits or cut can serve as asked."""


class KeysError(CutlayerError):
    """A folder of keys that cannot be made, read or used."""


class NetworkError(CutlayerError):
    """A connection that cannot be made, that was refused or that has ended."""


class RefusedError(NetworkError):
    """A connection that the other side will not have, however often it is tried."""


_EXTRAS = {
    "adjustText": "server",
    "constriction": "codec",
    "cryptography": "server",
    "dp_accounting": "privacy",
    "grpc": "server",
    "matplotlib": "server",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "pandas": "notebook",
    "prometheus_client": "server",
    "psutil": "server",
    "pyarrow": "server",
    "starlette": "dashboard",
    "torchmetrics": "audit",
    "uvicorn": "dashboard",
}

_BASE = (
    "huggingface_hub",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "yaml",
)
"""What a plain install brings, and a light device has not."""


def missing_package(error: ModuleNotFoundError) -> str | None:
    """The sentence for a package that comes with cutlayer or with an extra; None for any other.

    error: as Python raised it.
    """
    package = (error.name or "").partition(".")[0]
    if package in _BASE:
        return f"{package} is not installed: pip install cutlayer"
    extra = _EXTRAS.get(package)
    if extra is None:
        return None
    on_devices = package in ("cryptography", "grpc", "psutil")
    device = " (on a device, 'cutlayer[device]')" if on_devices else ""
    return f"{package} is not installed: pip install 'cutlayer[{extra}]'{device}"
