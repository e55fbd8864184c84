"""Can a model's self-report be believed?"""
