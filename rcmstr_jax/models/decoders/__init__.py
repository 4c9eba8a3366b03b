"""Recognition decoders: frames in, characters out."""
