"""python -m evals.psychometrics: see evals.analysis.command."""

from evals.analysis.command import app

if __name__ == "__main__":
    app(prog_name="python -m evals.psychometrics")
