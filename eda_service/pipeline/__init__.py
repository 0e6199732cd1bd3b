"""The stages of an adaptation, on Ray Data, Ray Train and DeepSpeed; importing the package imports none of them."""
