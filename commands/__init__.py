"""What each command does with its options: it calls evaluation and hands the results to report."""
