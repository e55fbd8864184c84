"""Whether a questionnaire's result is to be believed: criteria, verdicts, null study, report."""
