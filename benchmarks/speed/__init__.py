"""How fast is the codec, as a ratio to a memory copy and to FITS readers in the same run?"""
