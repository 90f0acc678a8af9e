"""Many runs of one graph: tables and sweeps, their checks, results, resuming, reports."""
