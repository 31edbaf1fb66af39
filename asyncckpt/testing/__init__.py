"""What this package tests itself with, for those who build on it: conformance suites, faults, crashes, a device."""
