"""The same peer from an event heap: virtual time, links with faults, one seed for one run."""
