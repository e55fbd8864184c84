"""Is a model's self-report to be believed?"""
