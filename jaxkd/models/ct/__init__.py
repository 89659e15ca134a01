"""Networks for CT volumes: NL-RAN, its parts, and those it is compared with."""
