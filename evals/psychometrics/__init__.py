"""Statistics of questionnaire responses, in numpy alone."""
