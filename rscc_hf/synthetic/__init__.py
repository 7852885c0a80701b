"""The procedural scenes behind `rscc_hf.synthetic.dataset`: textures, objects, layout, changes, nuisances."""
