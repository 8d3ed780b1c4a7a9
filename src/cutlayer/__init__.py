"""Fine-tune a transformer across devices that cannot hold it, over links that cannot carry it.

The verbs of the command line are functions here, which take a `Job` (what `load_job` reads from
YAML) and return what they measured. The types that a method, a score, an allocator or a weight of
one's own is made of are here too: nothing has to be imported from the modules below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutlayer.allocate.decision import Decision as Decision
    from cutlayer.allocate.round_shape import RoundShape as RoundShape
    from cutlayer.errors import AllocationError as AllocationError
    from cutlayer.errors import CutlayerError as CutlayerError
    from cutlayer.errors import DataError as DataError
    from cutlayer.errors import FrameError as FrameError
    from cutlayer.errors import JobError as JobError
    from cutlayer.errors import KeysError as KeysError
    from cutlayer.errors import ModelError as ModelError
    from cutlayer.errors import NetworkError as NetworkError
    from cutlayer.errors import RefusedError as RefusedError
    from cutlayer.errors import RunError as RunError
    from cutlayer.errors import WorldError as WorldError
    from cutlayer.inference.evaluate_run import Evaluated as Evaluated
    from cutlayer.inference.evaluate_run import evaluate as evaluate
    from cutlayer.inference.export_device import ExportedDevice as ExportedDevice
    from cutlayer.inference.export_device import export_device as export_device
    from cutlayer.inference.export_run import Exported as Exported
    from cutlayer.inference.export_run import export as export
    from cutlayer.inference.generate import Continuation as Continuation
    from cutlayer.inference.generate import generate as generate
    from cutlayer.inference.predict import Prediction as Prediction
    from cutlayer.inference.predict import predict as predict
    from cutlayer.job import Job as Job
    from cutlayer.job import change_job as change_job
    from cutlayer.job import dump_job as dump_job
    from cutlayer.job import load_job as load_job
    from cutlayer.job import make_job as make_job
    from cutlayer.methods import find_method as find_method
    from cutlayer.model.attention import cls_scores as cls_scores
    from cutlayer.model.attention import received_scores as received_scores
    from cutlayer.network.device.join import JoinOptions as JoinOptions
    from cutlayer.network.device.join import join as join
    from cutlayer.network.server.serve import ServeOptions as ServeOptions
    from cutlayer.network.server.serve import resume_serving as resume_serving
    from cutlayer.network.server.serve import serve as serve
    from cutlayer.network.server.timeouts import Timeouts as Timeouts
    from cutlayer.network.transport.identity import Identity as Identity
    from cutlayer.network.transport.identity import load_device_identity as load_device_identity
    from cutlayer.network.transport.identity import load_server_identity as load_server_identity
    from cutlayer.planning.calibration.calibrate import calibrate as calibrate
    from cutlayer.planning.calibration.record import Calibration as Calibration
    from cutlayer.planning.known.planning_input import Measures as Measures
    from cutlayer.planning.known.planning_input import PlanningInput as PlanningInput
    from cutlayer.planning.known.planning_input import RoundDecisions as RoundDecisions
    from cutlayer.planning.plan import Plan as Plan
    from cutlayer.planning.plan import plan as plan
    from cutlayer.planning.plan_sweep import sweep as sweep
    from cutlayer.record.rows import Row as Row
    from cutlayer.reports.build_report import Report as Report
    from cutlayer.reports.build_report import report as report
    from cutlayer.reports.trackers import track as track
    from cutlayer.rounds.progress import Progress as Progress
    from cutlayer.rounds.result import Result as Result
    from cutlayer.seeds import derive as derive
    from cutlayer.seeds import numpy_rng as numpy_rng
    from cutlayer.seeds import torch_rng as torch_rng
    from cutlayer.settings.allocation import Allocation as Allocation
    from cutlayer.settings.data import Data as Data
    from cutlayer.settings.data import Partition as Partition
    from cutlayer.settings.devices import Devices as Devices
    from cutlayer.settings.generated import GeneratedData as GeneratedData
    from cutlayer.settings.generator import GeneratorSettings as GeneratorSettings
    from cutlayer.settings.method import Method as Method
    from cutlayer.settings.method import Quantizer as Quantizer
    from cutlayer.settings.method import Tokens as Tokens
    from cutlayer.settings.model import Lora as Lora
    from cutlayer.settings.model import Model as Model
    from cutlayer.settings.places import FleetSettings as FleetSettings
    from cutlayer.settings.places import MobilitySettings as MobilitySettings
    from cutlayer.settings.privacy import Privacy as Privacy
    from cutlayer.settings.server import ServerSettings as ServerSettings
    from cutlayer.settings.training import Training as Training
    from cutlayer.settings.trust import Trust as Trust
    from cutlayer.settings.world import EnergySettings as EnergySettings
    from cutlayer.settings.world import WorldSettings as WorldSettings
    from cutlayer.simulation.compare import compare as compare
    from cutlayer.simulation.comparison import Comparison as Comparison
    from cutlayer.simulation.demo import demo as demo
    from cutlayer.simulation.simulate import resume as resume
    from cutlayer.simulation.simulate import simulate as simulate
    from cutlayer.train.generated import Participants as Participants
    from cutlayer.wire.codec import decode_activations as decode_activations
    from cutlayer.wire.codec import encode_activations as encode_activations
    from cutlayer.wire.frame_bytes import activations_bytes as activations_bytes
    from cutlayer.wire.messages import ActivationsMessage as ActivationsMessage

__version__ = "0.1.0"

_NAMES = {
    "allocate.decision": ["Decision"],
    "allocate.round_shape": ["RoundShape"],
    "errors": [
        "AllocationError", "CutlayerError", "DataError", "FrameError", "JobError", "KeysError",
        "ModelError", "NetworkError", "RefusedError", "RunError", "WorldError",
    ],
    "inference.evaluate_run": ["Evaluated", "evaluate"],
    "inference.export_device": ["ExportedDevice", "export_device"],
    "inference.export_run": ["Exported", "export"],
    "inference.generate": ["Continuation", "generate"],
    "inference.predict": ["Prediction", "predict"],
    "job": ["Job", "change_job", "dump_job", "load_job", "make_job"],
    "methods": ["find_method"],
    "model.attention": ["cls_scores", "received_scores"],
    "network.device.join": ["JoinOptions", "join"],
    "network.server.serve": ["ServeOptions", "resume_serving", "serve"],
    "network.server.timeouts": ["Timeouts"],
    "network.transport.identity": ["Identity", "load_device_identity", "load_server_identity"],
    "planning.calibration.calibrate": ["calibrate"],
    "planning.calibration.record": ["Calibration"],
    "planning.known.planning_input": ["Measures", "PlanningInput", "RoundDecisions"],
    "planning.plan": ["Plan", "plan"],
    "planning.plan_sweep": ["sweep"],
    "record.rows": ["Row"],
    "reports.build_report": ["Report", "report"],
    "reports.trackers": ["track"],
    "rounds.progress": ["Progress"],
    "rounds.result": ["Result"],
    "seeds": ["derive", "numpy_rng", "torch_rng"],
    "settings.allocation": ["Allocation"],
    "settings.data": ["Data", "Partition"],
    "settings.devices": ["Devices"],
    "settings.generated": ["GeneratedData"],
    "settings.generator": ["GeneratorSettings"],
    "settings.method": ["Method", "Quantizer", "Tokens"],
    "settings.model": ["Lora", "Model"],
    "settings.places": ["FleetSettings", "MobilitySettings"],
    "settings.privacy": ["Privacy"],
    "settings.training": ["Training"],
    "settings.trust": ["Trust"],
    "settings.server": ["ServerSettings"],
    "settings.world": ["EnergySettings", "WorldSettings"],
    "simulation.compare": ["compare"],
    "simulation.comparison": ["Comparison"],
    "simulation.demo": ["demo"],
    "simulation.simulate": ["resume", "simulate"],
    "train.generated": ["Participants"],
    "wire.codec": ["decode_activations", "encode_activations"],
    "wire.frame_bytes": ["activations_bytes"],
    "wire.messages": ["ActivationsMessage"],
}  # fmt: skip
"""Where each public name is defined; the list above says the same to type checkers."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds: only what is used is imported.
    if name in _HOME:
        return getattr(import_module(f"cutlayer.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cutlayer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
