"""MAML on Omniglot, 5 ways, 1 shot: train on 1028 characters in four rotations, test on 423 others.

python examples/maml_omniglot.py            # QUICKSTUDY_DATA names the data folder, else they are downloaded
python examples/maml_omniglot.py 10         # ten steps, to see it run
"""

import sys

import quickstudy as qs

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
arena = qs.load("omniglot").arena("meet", seed=0, shots=1, episodes=600)
method = qs.methods.MAML(arena.problem, inner_lr=0.4, test_steps=3)
chosen_on = arena.validation.tasks(slice(0, 100))
qs.fit(method, arena.train, validation=chosen_on, steps=steps, tasks=arena.tasks_per_step)
print("accuracy", qs.evaluate(method, arena.test))
