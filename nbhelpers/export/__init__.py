"""Writers of masks, mattes, cut-outs, videos and point clouds in the formats of other tools."""
