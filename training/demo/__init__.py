"""The two journeys of `python -m training demo`: on a pretrained model, and from scratch."""
