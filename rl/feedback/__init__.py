"""From a program to a verdict: problems, languages, graders, rewards."""
