"""Which tasks training meets, and when: curricula, one file each, that an environment is wrapped in."""

from quickstudy.curricula.adaptive_ranges import AdaptiveRanges
from quickstudy.curricula.alp_gmm import AlpGmm
from quickstudy.curricula.fading import Fading
from quickstudy.curricula.goal_gan import GoalGAN
from quickstudy.curricula.latent import LatentGoals
from quickstudy.curricula.skew_fit import Counted, Imagined, SkewFit, skewed
from quickstudy.curricula.taught import Anywhere, Curriculum, Taught

__all__ = [
    "AdaptiveRanges",
    "AlpGmm",
    "Anywhere",
    "Counted",
    "Curriculum",
    "Fading",
    "GoalGAN",
    "Imagined",
    "LatentGoals",
    "SkewFit",
    "Taught",
    "skewed",
]
