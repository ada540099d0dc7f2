"""The old V1 format of settings, and its migration to V2."""
