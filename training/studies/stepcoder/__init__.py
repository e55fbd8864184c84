"""Do the curriculum and the mask help?"""
