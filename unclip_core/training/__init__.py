"""Training: one loop, one task per stage, EMA, exact resume. Nothing here is imported when pictures are made."""
