"""Front doors: engines under the HTTP libraries that SDKs use. What is common to them is free of async."""
