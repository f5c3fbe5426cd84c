"""Numbers with error bars: compare ways of learning, decide, and keep what was measured as claims."""
