"""Public downloads of word sets, in the forms they come in, to sets that can be read at random."""
