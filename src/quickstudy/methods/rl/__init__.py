"""Methods that act."""

from quickstudy.methods.rl.actor_critic import ActorCritic
from quickstudy.methods.rl.behaviour_cloning import BehaviourCloning
from quickstudy.methods.rl.dagger import DAgger
from quickstudy.methods.rl.ddpg import DDPG
from quickstudy.methods.rl.distillation import Distillation
from quickstudy.methods.rl.distral import Distral
from quickstudy.methods.rl.dqn import DQN
from quickstudy.methods.rl.fitted_q import FittedQ
from quickstudy.methods.rl.gcsl import GCSL
from quickstudy.methods.rl.hierarchical import HierarchicalImitation
from quickstudy.methods.rl.ppo import PPO
from quickstudy.methods.rl.reinforce import Reinforce
from quickstudy.methods.rl.rl2 import RL2
from quickstudy.methods.rl.sac import SAC
from quickstudy.methods.rl.soft_q import SoftQ
from quickstudy.methods.rl.trpo import TRPO

__all__ = [
    "DDPG", "DQN", "GCSL", "PPO", "RL2", "SAC", "TRPO",
    "ActorCritic", "BehaviourCloning", "DAgger", "Distillation", "Distral", "FittedQ", "HierarchicalImitation",
    "Reinforce", "SoftQ",
]  # fmt: skip
