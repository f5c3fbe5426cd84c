"""Where data come from: class sets and their episodes, tables of tasks, families with a known optimum, data sets."""
