"""The only place that knows Ray and DeepSpeed; importing the package imports neither, the API process uses parts of
it.
"""
