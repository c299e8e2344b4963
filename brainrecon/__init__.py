__version__ = "0.1.0"

# Names that stay: the page `nbs/names.ipynb` lists and explains them. Each is imported when it is first used, so that `import brainrecon` stays quick.
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.datasets import load_data as load_data
    from .data.embedded import load_embedded as load_embedded
    from .data.given import read_recording as read_recording
    from .data.pictures import Pictures as Pictures, load_folder as load_folder, load_pictures as load_pictures
    from .data.recordings import from_bids as from_bids, from_mne as from_mne
    from .data.recordings_fmri import from_nifti as from_nifti
    from .data.splits import Splits as Splits, split_concepts as split_concepts
    from .data.trials import Trials as Trials, load_trials as load_trials
    from .decoders.avde import AVDE as AVDE
    from .decoders.fusion_drawer import FusionDrawer as FusionDrawer
    from .decoders.hvf import HVF as HVF
    from .decoders.mindhier import MindHier as MindHier
    from .decoders.packaged import load_decoder as load_decoder
    from .decoders.ready import BrainDecoder as BrainDecoder
    from .decoders.retrieval import ContrastiveDecoder as ContrastiveDecoder, RidgeDecoder as RidgeDecoder, make_gallery as make_gallery
    from .jobs.run import run_job as run_job
    from .metrics.retrieval import retrieve as retrieve


def __getattr__(name):
    "A stable name, imported when it is first used."
    from .core.stable import stable_name
    value = stable_name(name); globals().setdefault(name, value)
    return value


def __dir__():
    from .core.stable import stable
    return sorted({*globals(), *stable})
