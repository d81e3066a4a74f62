"""Are the levels those of the specification, and how far is RICE from them?"""
