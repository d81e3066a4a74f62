"""How like real stamps are the simulated ones?"""
