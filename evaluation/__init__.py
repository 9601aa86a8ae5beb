"""Maps and runs -> numbers: metrics, statistics, verdicts."""
