"""What a model knows: closed-book questions and multiple choice."""
