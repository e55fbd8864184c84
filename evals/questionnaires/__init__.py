"""Questionnaires asked and scored: instruments, wording, designs, respondents."""
