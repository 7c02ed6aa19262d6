"""The physics: frames, operators, fits, labels and the simulated head. Arrays in, arrays out."""
