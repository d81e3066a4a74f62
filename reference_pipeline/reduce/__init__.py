"""From a raw frame to a calibrated one: pixels in electrons, WCS, zero point, PSF, quality."""
