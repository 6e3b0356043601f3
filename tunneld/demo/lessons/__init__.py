"""One module for each lesson; `tunneld.demo.LESSONS` has their order."""
