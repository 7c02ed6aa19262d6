"""Raw data sets of simulated heads."""
