"""How many bytes is a multi-scale cutout, beside what the surveys send today?"""
