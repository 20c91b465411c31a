"""Sessions: start, resume or test one stage, or apply it to photos, from parsed options."""
