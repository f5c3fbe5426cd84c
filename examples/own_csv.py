"""Your own table, from file to predictions: which way of learning fits, then train it and use it on a new user.

    python examples/own_csv.py [STEPS]

The table is made up here: 12 users rate films; what makes a film good differs from user to user, but not wholly.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich import print as show

import quickstudy as qs
from quickstudy.reports import table, write_report
from quickstudy.run import Config, train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
folder = Path("runs/example-own-csv")

rng = np.random.default_rng(0)
taste = rng.normal([2.0, -1.0, 0.5], 0.5, (13, 3))  # one row a user, the last one is new
film = rng.normal(size=(13, 40, 3))
rating = np.einsum("unf,uf->un", film, taste) + 0.5 * rng.normal(size=(13, 40)) + 5
frame = pd.DataFrame(film.reshape(-1, 3), columns=["action", "length", "humour"])
frame["user"] = np.repeat([f"user {u}" for u in range(13)], 40)
frame["rating"] = rating.ravel()
folder.mkdir(parents=True, exist_ok=True)
known = frame[frame["user"] != "user 12"]
known.to_csv(folder / "ratings.csv", index=False)

# which way of learning fits these users?
data = str(folder / "ratings.csv")
plan = qs.Plan(data, target="rating", task="user", methods=("ridge", "pooled", "cnp"), seeds=2, steps=steps)
results = qs.compare(plan, folder / "study", resume=True, workers=1)
write_report(results, folder / "study" / "report.html")
show(table(results))

# train one of them, score it on users it has not seen, and let it learn the new user from five ratings
config = Config("cnp", data, target="rating", task="user", question="meet", steps=steps)
run, validation = train(config, folder / "run", resume=True)
print("validation", validation)
print("test", run.evaluate(shots=5))
new = frame[frame["user"] == "user 12"]
learner = qs.FewShotRegressor(folder / "run").fit(new.iloc[:5, :3].to_numpy(), new["rating"].iloc[:5])
print("R2 on the new user's other films", learner.score(new.iloc[5:, :3].to_numpy(), new["rating"].iloc[5:]))
