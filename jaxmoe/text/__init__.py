"""The surroundings of a text: chat templates, the form of a prompt, the tokens that end an answer."""
