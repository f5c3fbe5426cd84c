"""Which tasks training meets, and when: curricula, one file each, that an environment is wrapped in."""

from quickstudy.curricula.alp_gmm import AlpGmm
from quickstudy.curricula.goal_gan import GoalGAN
from quickstudy.curricula.taught import Anywhere, Curriculum, Taught

__all__ = ["AlpGmm", "Anywhere", "Curriculum", "GoalGAN", "Taught"]
