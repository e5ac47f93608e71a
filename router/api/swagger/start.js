// Relative, because a proxy may serve this below another path. No validator, because it would send the API to another host.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
