"""The procedural scenes behind `rscc_hf.data.synthetic`: textures, objects, layout, changes, nuisances."""
