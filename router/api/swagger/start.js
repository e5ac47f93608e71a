// Relative, for a proxy may serve all this below a path of its own. No validator: it would be asked at its makers' host.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
