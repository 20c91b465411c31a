"""Sessions: one stage started, resumed, tested or applied to photos, from parsed options."""
