"""Who somebody is: passwords, what balancers say of clients, and the roles of operators."""
