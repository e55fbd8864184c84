"""Who answers: models on this machine, models behind a server, and simulated respondents."""
