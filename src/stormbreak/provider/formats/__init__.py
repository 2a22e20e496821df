"""What each address of the API says: answers plain and streamed, errors, all in the shape of that address."""
