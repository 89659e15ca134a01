"""Which sampler for few model calls: GITS beside fixed and fitted schedules.

    python -m jaxkd.main --config=configs/gits.py

runs seven solvers with 3 to 10 model calls on six schedules, on two densities whose
denoiser is known in closed form, then two of them with 5 and 8 calls on a narrow
network that it trains first, and names the best by their distance from the exact
solution; less than ten minutes on two CPU cores, no download. The schedules are fixed
ones (polynomial, logsnr, time-uniform, time-quadratic), GITS (Chen et al., "On the
Trajectory Regularity of ODE-based Diffusion Sampling", ICML 2024, arXiv:2405.11326) and
ones fitted to the solver by least squares. Afterwards schedules/ in the folder of the
run holds the best for each solver and number of calls. Variants:

    configs/gits.py:quick            the ring, three solvers: under a minute
    configs/gits.py:study            five densities, five warm-up seeds: the table of
                                     what fitting gains; half an hour
    configs/gits.py:offsets          the same densities, one seed, and also what is
                                     gained where the fit may tell the denoiser another
                                     sigma than the schedule's
    configs/gits.py:trained          a network alone, trained first: configs/edm.py; or,
                                     with its folder after a comma, a finished one
    configs/gits.py:edm,FILE         an EDM model (.pkl, .npz, .safetensors) of yours;
                                     hours on CPU, minutes on an accelerator

Of networks config.networks says what is measured: --config.networks.nfe="(5,)".

Draw samples with a schedule that was found:

    python -m jaxkd.main --mode=sample --config=configs/gits.py --workdir=runs/gits
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.pipelines import gits
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.recipes import diffusion


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variant, *rest = arg.split(",", 1)
    variants = {"": embedded, "quick": quick, "study": study}
    variants |= {"offsets": offsets, "trained": trained, "edm": edm}
    if variant == "edm" and not (rest and rest[0]):
        raise ValueError("configs/gits.py:edm wants a file, as in :edm,model.pkl.")
    return choose(variant, variants, what="configs/gits.py variant")(*rest)


def embedded() -> ConfigDict:
    """Two densities in closed form, and a network trained for a minute."""
    config = gits.default()
    network = diffusion.digits()
    network.name = "edm-narrow"
    network.model.model_channels = 16
    network.duration, network.optim.warmup = 600, 50
    network.eval_every = network.checkpoint_every = 300
    config.needs.trained = configs.needed(network)
    config.networks.update({"solvers": ("ipndm", "unipc"), "nfe": (5, 8)})
    return config


def quick() -> ConfigDict:
    """Two dimensions, three solvers, three numbers of calls: a first look."""
    config = gits.default()
    config.name = "gits-quick"
    config.densities = ("ring",)
    config.solvers = ("ipndm", "dpmpp", "unipc")
    config.nfe = (5, 8, 10)
    return config


def study() -> ConfigDict:
    """What fitting gains, over densities and warm-up seeds."""
    config = gits.default()
    config.name = "gits-study"
    config.densities = ("digits", "digits_kde", "glyphs", "ring", "gaussian")
    config.seeds = (0, 1, 2, 3, 4)
    config.solvers = ("ipndm", "dpmpp", "unipc")
    config.nfe = (5, 6, 8, 10)
    return config


def offsets() -> ConfigDict:
    """What offsets gain on top."""
    config = study()
    config.name = "gits-offsets"
    config.seeds = (0,)
    config.schedules = gits_config.SCHEDULES
    return config


def trained(workdir: str = "") -> ConfigDict:
    """A small network, trained first or taken from the folder of its run."""
    config = _networks("gits-trained")
    config.needs.trained = configs.needed(diffusion.digits(), workdir)
    return config


def edm(path: str) -> ConfigDict:
    """A published network, or the user's."""
    config = _networks("gits-edm")
    config.edm.path = path
    return config


def _networks(name: str) -> ConfigDict:
    config = gits.default()
    config.name = name
    config.densities = ()
    return config
